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


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([2.0, 4.0, 4.0], ("max_steps", 3)),  # just twice the first
        ([0.5, 1.5, 1.5], ("max_steps", 3)),  # just 1 above the first
        ([-3.0, 0.0, 0.0], ("max_steps", 3)),  # just the first's size above it
        ([-3.0, 0.125], ("diverged", 1)),
        ([0.5, 1.625], ("diverged", 1)),
    ],
)
def test_a_loss_diverges_above_the_first_by_more_than_its_size_and_1(losses, expected):
    assert outcome(losses, tolerance=None) == expected


def test_a_fall_of_just_the_tolerance_does_not_count_and_one_step_of_patience_is_the_least():
    assert outcome([1.0, 0.5, 0.0], tolerance=0.5, patience=1) == ("converged", 1)
    assert outcome([1.0, 0.25, -0.5], tolerance=0.5, patience=1) == ("max_steps", 3)


def test_a_fall_gives_a_pair_its_patience_back():
    assert outcome([1.0, 1.0, 0.5, 0.5, 0.5, 0.5], patience=2) == ("converged", 4)


def test_pairs_whose_earlier_losses_are_forgotten_begin_again_and_others_go_on():
    stopping = follow([[1.0, 1.0], [1.0, 1.0]])
    stopping.forget(torch.tensor([True, False]))
    stopping.judge(torch.tensor([9.0, 1.0]))
    assert [REASONS[r] for r in stopping.reason.tolist()] == ["max_steps", "converged"]
    for loss in (9.0, 9.0):
        stopping.judge(torch.tensor([loss, 1.0]))
    assert [REASONS[r] for r in stopping.reason.tolist()] == ["converged", "converged"]
    assert stopping.updates.tolist() == [4, 2]


def test_a_pair_whose_first_loss_is_not_finite_shows_it_and_of_the_others_some_are_kept():
    stopping = Stopping(2, None, 1, torch.device("cpu"))
    loss = torch.tensor([NAN, 1.0])
    stopping.judge(loss)
    last = {"loss/total": torch.tensor([7.0, 7.0])}
    assert stopping.hold_values({"loss/total": loss}, last, 0)["loss/total"].tolist() == [7, 1]
    stopping.keep(torch.tensor([1]))
    assert stopping.running.tolist() == [True] and stopping.updates.tolist() == [1]
