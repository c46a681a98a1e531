import pytest
import torch

from m2ib_lightning.methods.stopping import REASONS, Stopping


def follow(losses: list[list[float]], tolerance: float | None = 0.1, patience: int = 2) -> Stopping:
    """Judge losses given per step, (steps, B)."""
    stopping = Stopping(len(losses[0]), tolerance, patience, torch.device("cpu"))
    for row in losses:
        stopping.judge(torch.tensor(row))
    return stopping


def outcome(losses: list[float], **arguments) -> tuple[str, int]:
    stopping = follow([[loss] for loss in losses], **arguments)
    return REASONS[int(stopping.reason[0])], int(stopping.updates[0])


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([3.0, 2.0, 1.0, 0.5], ("max_steps", 4)),
        # falls by 0.05 twice: after the first loss and two further ones, two updates were made
        ([1.0, 0.95, 0.91, 0.1], ("converged", 2)),
        # falls by 0.06 twice: each is held against the loss before it and not against the first
        ([1.0, 0.94, 0.88, 0.1], ("converged", 2)),
        # rises to more than twice the first loss after one update
        ([2.0, 4.5, 1.0], ("diverged", 1)),
        # a small first loss may rise by 1
        ([0.1, 1.05, -0.5], ("max_steps", 3)),
        ([0.1, 1.2, 0.1], ("diverged", 1)),
        ([1.0, NAN, 0.0], ("non_finite", 1)),
        ([1.0, INF, 0.0], ("non_finite", 1)),
        ([NAN, 1.0], ("non_finite", 0)),
    ],
)
def test_each_reason_is_found_at_its_step(losses, expected):
    assert outcome(losses) == expected


def test_without_a_tolerance_a_flat_loss_runs_on():
    assert outcome([1.0] * 9, tolerance=None) == ("max_steps", 9)


def test_a_flat_loss_has_not_fallen_where_the_tolerance_is_0():
    assert outcome([1.0] * 9, tolerance=0.0) == ("converged", 2)


def test_a_pair_is_judged_by_itself():
    alone = [outcome(losses) for losses in ([3.0, 2.0, 1.0], [1.0, 1.0, 1.0], [1.0, NAN, 1.0])]
    together = follow([[3.0, 1.0, 1.0], [2.0, 1.0, NAN], [1.0, 1.0, 1.0]])
    assert [(REASONS[r], u) for r, u in zip(together.reason.tolist(), together.updates.tolist(), strict=True)] == alone


def test_a_state_goes_on_where_it_was():
    stopping, again = follow([[1.0], [0.95]]), Stopping(1, 0.1, 2, torch.device("cpu"))
    again.load(stopping.state())
    for one in (stopping, again):
        one.judge(torch.tensor([0.94]))
    assert again.reason.tolist() == stopping.reason.tolist() == [1]


def test_a_pair_that_stopped_shows_the_values_it_stopped_at_and_none_that_are_not_finite():
    stopping, shown = Stopping(3, 0.1, 2, torch.device("cpu")), []
    losses = torch.tensor([[1.0, 3.0, 1.0], [0.95, 2.0, 0.5], [0.91, 1.0, NAN], [0.1, 0.5, 0.2], [0.0, 0.2, 0.1]])
    for made, loss in enumerate(losses):
        stopping.judge(loss)
        values = {"loss/total": loss, "other": 2 * loss}
        shown.append(stopping.hold_values(values, shown[-1] if shown else values, made))
    by_pair = [list(values) for values in zip(*(values["other"].tolist() for values in shown), strict=True)]
    # The first converges at its third loss, the second runs on, the third is lost at its third.
    assert by_pair == [pytest.approx([2, 1.9, 1.82, 1.82, 1.82]), pytest.approx([6, 4, 2, 1, 0.4]), [2, 1, 1, 1, 1]]
