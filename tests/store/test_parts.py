"""A part is whole, says what made it, and is refused in one line where it is another file."""

import errno
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m2ib_lightning.errors import StoreError
from m2ib_lightning.store.parts import Provenance, naming, open_part, provenance_of, unwritten, write_table
from m2ib_lightning.store.rows import ADDED, SCHEMA, to_table
from m2ib_lightning.version import __version__
from tests.made import attribution

MADE = Provenance("embedded", "abc", {"model": {"steps": 3}})


@pytest.fixture
def part(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "attributions" / "part-00000-000000.parquet"
    write_table(path, to_table([attribution()]), MADE)
    return path


def refused(path: Path, table: pa.Table) -> str:
    """What is said of a table under the name of a part, without its name and the remedy."""
    pq.write_table(table, path)
    with pytest.raises(StoreError) as said:
        open_part(path)
    return str(said.value).replace(str(path), "PART").partition(" Remedy: ")[0]


def test_a_part_says_what_made_it_and_which_version_did_unless_it_is_told(part: Path):
    assert provenance_of(part) == MADE._replace(version=__version__)
    older = part.with_name("part-00000-000001.parquet")
    write_table(older, to_table([attribution()]), MADE._replace(version="0.1"))
    assert provenance_of(older) == MADE._replace(version="0.1")
    assert open_part(part).schema_arrow.metadata[b"m2ib.schema"] == str(SCHEMA).encode() == b"4"


def test_pairs_are_compressed_in_groups_of_64(part: Path):
    write_table(part, to_table([attribution(id=str(i), history={}) for i in range(130)]), MADE)
    made = open_part(part).metadata
    assert [made.row_group(i).num_rows for i in range(made.num_row_groups)] == [64, 64, 2]
    assert made.row_group(0).column(0).compression == "ZSTD"


def test_one_changed_bit_of_a_map_is_noticed(part: Path):
    noise = np.frombuffer(np.random.default_rng(0).bytes(4 * 64**2), np.float32).reshape(64, 64)
    write_table(part, to_table([attribution(image_map=noise)]), MADE)
    whole = bytearray(part.read_bytes())
    whole[whole.index(noise.tobytes()[400:408])] ^= 1
    part.write_bytes(whole)
    with pytest.raises(StoreError, match=rf"^Expected a whole part but {part} is damaged \("), naming(part):
        open_part(part).read()


def test_the_reason_of_a_damage_is_one_line_of_at_most_120_characters():
    for reason, said in (("a" * 130, "a" * 120), ("not\n whole. ", "not whole")):
        with pytest.raises(StoreError, match=rf"^Expected a whole part but x is damaged \({said}\)\. "):  # noqa: SIM117
            with naming(Path("x")):
                raise ValueError(reason)
    with pytest.raises(StoreError, match=r"^full$"), naming(Path("x")):
        raise StoreError("full")


def test_what_cannot_be_written_is_said_with_its_reason_and_remedy():
    for number in (errno.ENOSPC, errno.EDQUOT):
        assert str(unwritten(Path("run/x"), "a part", "go on", OSError(number, "Full"))) == (
            "Expected room for a part in run but the disk is full. Remedy: make room; go on."
        )
    for problem, reason in ((OSError(errno.EACCES, "Permission denied"), "Permission denied"), (OSError("odd"), "odd")):
        assert str(unwritten(Path("run/x"), "a part", "go on", problem)) == (
            f"Expected to write run/x but got {reason}. Remedy: make run writable."
        )


def test_the_number_of_the_version_is_that_of_columns_that_are_known(part: Path):
    table = pq.read_table(part)

    def numbered(version: str) -> pa.Table:
        return table.replace_schema_metadata({"m2ib.schema": version})

    for known in (1, SCHEMA):
        pq.write_table(numbered(str(known)), part)
        assert open_part(part).metadata.num_rows == 1
    newer = f"Expected columns of version {SCHEMA} but PART has"
    assert refused(part, numbered(str(SCHEMA + 1))) == f"{newer} {SCHEMA + 1}."
    assert refused(part, numbered("9" * 9)) == f"{newer} 999999999."
    for odd, shown in (("0", "0"), ("1" * 10, "1" * 10), ("x" * 50, "x" * 40)):
        assert refused(part, numbered(odd)) == f"Expected the number of a version but PART says {shown!r}."
    for none in (None, {"other": "4"}):
        assert refused(part, table.replace_schema_metadata(none)) == (
            "Expected parts of an attribution store but PART is none."
        )


def test_columns_of_earlier_versions_may_be_missing_and_no_column_may_be_of_another_kind(part: Path):
    table = pq.read_table(part)
    pq.write_table(table.drop_columns(list(ADDED)), part)
    assert open_part(part).metadata.num_columns > 10

    def numbers(*names: str) -> pa.Table:
        changed = table
        for name in names:
            changed = changed.set_column(changed.column_names.index(name), name, [[1]])
        return changed

    others = "Expected the columns of an attribution store but PART has others for"
    assert refused(part, numbers("metrics")) == f"{others} metrics."
    assert refused(part, table.drop_columns("unit")) == f"{others} unit."
    assert refused(part, numbers("error", "id", "score", "text", "source")) == f"{others} id, source, text, error."


def test_metadata_that_say_nothing_are_named(part: Path):
    table = pq.read_table(part)
    for name in Provenance._fields:
        left = {key: value for key, value in table.schema.metadata.items() if key != f"m2ib.{name}".encode()}
        pq.write_table(table.replace_schema_metadata(left), part)
        with pytest.raises(StoreError, match=re.escape(f"the metadata 'm2ib.{name}' but {part} has none. Remedy: ")):
            provenance_of(part)
