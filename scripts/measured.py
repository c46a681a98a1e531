"""The tables of the pages: what is typed for each, and how it is shown. `scripts/measure.py` makes them."""

from __future__ import annotations

from collections.abc import Sequence

import rendered
from measure import Run, Table

COMPARED = ("M2IB", "GradCAM", "Saliency", "Chefer", "GradECLIP", "LeGrad")


def compare(arguments: str, scenes: int, methods: Sequence[str] = ()) -> Run:
    """Several methods on the same scenes, all by default; a row for each method and pair."""
    chosen = f"--methods=[{','.join(methods)}]" if methods else "--config configs/compare.yaml"
    words = f"m2ib compare {chosen} --data.scenes {{scenes}} {arguments} --output {{output}}"
    return Run(words, "pairs.parquet", scenes)


MEASUREMENTS = "scripts/README.md"
ONE = compare("--data.scene_seed 10000", 250)
TWO = compare("--data.scene_seed 10250 --data.scene_named 2", 250)
IDEAS = "python scripts/compare_ideas.py --scenes {scenes}"
SEARCH = Run("python scripts/search_settings.py --scenes {scenes} --output {output}", "settings.csv", 40)
CALIBRATED = "python scripts/calibrated_on_scenes.py --pairs 24 --image_layers 0 2 3 4 6 --betas 0.1 0.3 1 3"
WATCHING = "python scripts/watching_cost.py --logger wandb --repeats 3 --output {output}"
SPEED = Run("python scripts/benchmark.py --scaling --output {output}/benchmark.json", "benchmark.json")
KILLED = "python scripts/kill_and_resume.py --scenes {scenes} --folder {output}/run"
READER = "python scripts/measure_reader.py --reader {trained} --scenes {scenes} --output {output}"
TARGETS = "two_of_four relation phrase foil region absent"
PHRASES = "python scripts/measure_phrases.py --scenes {scenes} --output {output}"
FIVE = (rendered.OURS, "M2IB-released", "Chefer-cosine", "KernelSHAP", "RandomMap")
KINDS = ("plain", "two_of_four", "twice", "small", "clutter", "relation", "attribute")

PLACES = "PointingGame,RelevanceMassAccuracy,RelevanceRankAccuracy,TokenAUROC,TokenMassAccuracy"
MODELS = ("embedded", "outputs/models/clip-12x320", "outputs/models/siglip-12x320")
WITHIN_SECONDS = (
    "M2IB",
    "NIB",
    "GradCAM",
    "Saliency",
    "SmoothGrad",
    "IntegratedGradients",
    "Chefer",
    "AttentionRollout",
    "GradECLIP",
    "LeGrad",
    "Occlusion",
)
EXAM = f"--metrics=[{PLACES}] --data.scene_seed 60000 --data.scene_kind"

TABLES = [
    Table(
        "demo",
        "README.md",
        {"demo": Run("m2ib fit --config configs/quickstart.yaml --output {output}/run", "log.txt")},
        rendered.demo,
    ),
    Table(
        "reach",
        "README.md",
        {"one": ONE, "two": TWO},
        rendered.of_scores(lambda r: rendered.methods_table(r, rendered.FIRST_THREE, FIVE)),
    ),
    Table(
        "methods",
        MEASUREMENTS,
        {"one": ONE, "two": TWO},
        rendered.of_scores(lambda r: rendered.methods_table(r, rendered.MEASURED)),
    ),
    Table("standing-one", MEASUREMENTS, {"one": ONE}, rendered.of_scores(lambda r: rendered.standing(r[0]))),
    Table("standing-two", MEASUREMENTS, {"two": TWO}, rendered.of_scores(lambda r: rendered.standing(r[0]))),
    Table(
        "kinds",
        MEASUREMENTS,
        {kind: compare(f"--data.scene_kind {kind} --data.scene_seed 20000", 40, COMPARED) for kind in KINDS},
        rendered.kinds_table,
    ),
    Table(
        "absent",
        MEASUREMENTS,
        {"absent": Run("python scripts/absent_words.py --scenes {scenes} --output {output}", scenes=400)},
        rendered.absent_table,
    ),
    Table("exam", MEASUREMENTS, {"hard": compare(f"{EXAM} hard", 40)}, rendered.exam_table),
    *(
        Table(
            f"models-{kind}",
            MEASUREMENTS,
            {
                model.rpartition("/")[2]: compare(f"--backbone {model} {EXAM} {kind}", 40, WITHIN_SECONDS)
                for model in MODELS
            },
            rendered.models_table,
        )
        for kind in ("plain", "hard")
    ),
    Table(
        "sanity",
        MEASUREMENTS,
        {"sanity": compare("--sanity true --data.scene_seed 20000", 40, COMPARED)},
        rendered.sanity_table,
    ),
    Table(
        "settings",
        MEASUREMENTS,
        {"one": ONE},
        rendered.of_scores(lambda r: rendered.methods_table(r, rendered.FIRST_THREE, FIVE[:2])),
    ),
    Table("search", MEASUREMENTS, {"search": SEARCH}, rendered.settings_table),
    Table(
        "calibration",
        "m2ib_lightning/evaluation/README.md",
        {"on": Run(f"{CALIBRATED} --scenes {{scenes}} --output {{output}}", scenes=100)},
        rendered.calibration_table,
    ),
    Table("text-layers", MEASUREMENTS, {"search": SEARCH}, rendered.text_layers_table),
    Table(
        "losses",
        MEASUREMENTS,
        {"losses": Run("python scripts/compare_losses.py --scenes {scenes} --output {output}", scenes=60)},
        rendered.losses_table,
    ),
    Table(
        "keep",
        MEASUREMENTS,
        {
            "keep": Run(
                "python scripts/measure_keep.py --scenes {scenes} --scene_seed 140000 --output {output}", scenes=500
            )
        },
        rendered.keep_table,
    ),
    Table(
        "reader",
        MEASUREMENTS,
        {
            "trained": Run("m2ib train-reader --output {output}", "reader.safetensors"),
            "reader": Run(READER, scenes=200),
        },
        rendered.reader_table,
    ),
    Table(
        "verdicts",
        MEASUREMENTS,
        {"verdicts": Run("python scripts/measure_verdicts.py --scenes {scenes} --output {output}", scenes=100)},
        rendered.verdicts_table,
    ),
    Table(
        "ideas",
        MEASUREMENTS,
        {"ideas": Run(IDEAS + " --scene_seed 41000 --output {output}", scenes=100)},
        rendered.ideas_table,
    ),
    Table(
        "phrases",
        MEASUREMENTS,
        {
            "all": Run(
                f"{PHRASES} --methods M2IB LeGrad GradECLIP Chefer --parts {TARGETS}",
                scenes=304,
            )
        },
        rendered.phrases_table,
    ),
    Table(
        "taken-out",
        MEASUREMENTS,
        {
            "phrases": Run(
                f"{PHRASES} --scene_seed 210000 --parts phrase two_of_four --out alike mean deleted neutral", scenes=32
            ),
        },
        rendered.phrases_table,
    ),
    Table(
        "backbones",
        MEASUREMENTS,
        {"backbones": Run("python scripts/compare_backbones.py --full --output {output}")},
        rendered.backbones_table,
    ),
    Table("speed", MEASUREMENTS, {"speed": SPEED}, rendered.speed_table),
    Table("scaling", MEASUREMENTS, {"scaling": SPEED}, rendered.scaling_table),
    Table(
        "watching",
        MEASUREMENTS,
        {"10": Run(f"{WATCHING} --noise_samples 10"), "2, the default": Run(f"{WATCHING} --noise_samples 2")},
        rendered.watching_table,
    ),
    Table(
        "many",
        MEASUREMENTS,
        {"many": Run("python scripts/many_pairs.py --scenes {scenes} --output {output}", scenes=100)},
        rendered.many_table,
    ),
    Table(
        "killed",
        MEASUREMENTS,
        {
            "one": Run(KILLED, "log.txt", 2000),
            "two": Run(f"{KILLED} --devices 2 --kills 8", "log.txt", 2000),
            "fit": Run(f"{KILLED} --verb fit --last 2", "log.txt", 4),
            "compare": Run(f"{KILLED} --verb compare --last 2", "log.txt", 160),
        },
        rendered.last_lines,
    ),
]
