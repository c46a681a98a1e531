import pytest
import torch

from m2ib_lightning.methods.streams import Streams, one_by_one


class Device:
    """Stands in for `torch.cuda`: says what is waited for, and in which stream something runs."""

    def __init__(self):
        self.said, self.now, self.made = [], "here", 0

    def Stream(self):
        self.made += 1
        return Stream(self, f"stream {self.made}")

    def current_stream(self):
        return Stream(self, self.now)

    def stream(self, stream):
        device = self

        class Inside:
            def __enter__(self):
                self.before, device.now = device.now, stream.name

            def __exit__(self, *_):
                device.now = self.before

        return Inside()


class Stream:
    def __init__(self, device, name):
        self.device, self.name = device, name

    def wait_stream(self, other):
        self.device.said.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def device(monkeypatch):
    device = Device()
    monkeypatch.setattr(torch, "get_device_module", lambda _: device)
    return device


def test_each_tower_begins_when_the_inputs_are_there_and_nobody_goes_on_before_both_are_done(device):
    def run(modality):
        device.said.append(f"{modality} in {device.now}")
        return modality

    streams = Streams(torch.device("cuda"))
    assert streams(run, ("image", "text")) == {"image": "image", "text": "text"}
    assert device.now == "here"
    assert device.said == [
        "stream 1 waits for here",
        "image in stream 1",
        "stream 2 waits for here",
        "text in stream 2",
        "here waits for stream 1",
        "here waits for stream 2",
    ]


def test_memory_that_another_stream_made_is_kept_until_this_one_has_read_it(device):
    class OnGPU(torch.Tensor):
        is_cuda = True

        def record_stream(self, stream):
            device.said.append(f"kept for {stream.name}")

    made = torch.zeros(2).as_subclass(OnGPU)
    Streams(torch.device("cuda"))(lambda _: ("name", 1.0, None, made, (made, torch.zeros(1))), ("text",))
    assert device.said[-3:] == ["here waits for stream 2", "kept for here", "kept for here"]


def test_on_a_processor_streams_change_nothing():
    run = {"image": torch.ones(2), "text": torch.zeros(1)}.get
    found, plain = Streams(torch.device("cpu"))(run, ("text", "image")), one_by_one(run, ("text", "image"))
    assert list(found) == list(plain) == ["text", "image"]
    assert all(torch.equal(found[m], plain[m]) for m in plain)
