"""The network interface over which several machines talk, and what a machine lacks."""

import os

import pytest

from uni_sign.config import TrainConfig
from uni_sign.engine import launch
from uni_sign.errors import InputError

TWO = {"eth0": ["10.0.0.2"], "docker0": ["172.17.0.1"]}


@pytest.fixture
def two_machines(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The second of two machines of two processes each, whose only way to the first is "fast0"."""
    values = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "127.0.0.1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    for name in ("LOCAL_SIZE", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        # Set before deleted, so that what the code sets is taken back too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(launch, "network_interfaces", lambda: {**TWO, "fast0": ["10.1.0.2", "127.0.0.1"]})
    return monkeypatch


def chosen() -> tuple[str | None, str | None]:
    launch.choose_interface()
    return os.environ.get("GLOO_SOCKET_IFNAME"), os.environ.get("NCCL_SOCKET_IFNAME")


@pytest.mark.usefixtures("two_machines")
def test_the_interface_that_routes_to_the_first_machine_is_taken() -> None:
    assert chosen() == ("fast0", "fast0")


def test_the_deepspeed_launcher_counts_local_processes_by_another_name(two_machines: pytest.MonkeyPatch) -> None:
    two_machines.delenv("LOCAL_WORLD_SIZE")
    two_machines.setenv("LOCAL_SIZE", "2")
    assert chosen() == ("fast0", "fast0")


@pytest.mark.parametrize("local", ["4", None])
def test_nothing_is_chosen_on_one_machine(two_machines: pytest.MonkeyPatch, local: str | None) -> None:
    two_machines.delenv("LOCAL_WORLD_SIZE")
    if local:
        two_machines.setenv("LOCAL_WORLD_SIZE", local)
    assert chosen() == (None, None)


def test_the_users_choice_stays(two_machines: pytest.MonkeyPatch) -> None:
    two_machines.setenv("NCCL_SOCKET_IFNAME", "ib0")
    assert chosen() == ("fast0", "ib0")
    two_machines.setenv("GLOO_SOCKET_IFNAME", "docker0,eth0")
    assert chosen() == ("docker0,eth0", "ib0")


def test_an_interface_that_leads_nowhere_is_refused(two_machines: pytest.MonkeyPatch) -> None:
    two_machines.setenv("GLOO_SOCKET_IFNAME", "eth0,lo")
    with pytest.raises(InputError, match=r"names lo, which leads to no other machine: name one that does \(eth0 at 10"):
        launch.choose_interface()


def test_the_first_machine_may_know_itself_as_its_loopback() -> None:
    """Debian maps a machine's own name to 127.0.1.1; a single way out leaves no choice."""
    assert launch.interface_to("127.0.1.1", first=True, interfaces={"eth0": ["10.0.0.2"]}) == "eth0"


@pytest.mark.parametrize(
    ("first", "interfaces", "remedy"),
    [
        (True, TWO, r"set GLOO_SOCKET_IFNAME and NCCL_.* \(eth0 at 10.0.0.2, docker0 at 172.17.0.1\)"),
        (True, {}, r"set GLOO_SOCKET_IFNAME and NCCL_.* \(none is up\)"),
        (False, {"eth0": ["10.0.0.2"]}, "give the first machine's address"),
    ],
)
def test_what_cannot_be_known_is_said_with_the_remedy(
    first: bool, interfaces: dict[str, list[str]], remedy: str
) -> None:
    with pytest.raises(InputError, match=rf"means 127.0.0.1 here, which no other machine reaches: {remedy}\."):
        launch.interface_to("127.0.0.1", first, interfaces)


def test_an_unknown_first_machine_is_said() -> None:
    with pytest.raises(InputError, match=r"MASTER_ADDR nowhere\.invalid is not reached from this machine"):
        launch.interface_to("nowhere.invalid", True, TWO)


def test_loopback_is_no_way_out() -> None:
    assert "lo" not in launch.network_interfaces()


def test_8_bit_adamw_needs_a_gpu_and_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(opt="adamw8bit", dtype="fp32")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="--opt adamw8bit needs a GPU"):
        launch.check_launch(config)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    launch.check_launch(config)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs bitsandbytes: pip install '.\[cuda\]'"):
        launch.check_launch(config)


@pytest.mark.parametrize(("wanted", "processes", "steps"), [(0, 4, 1), (8, 1, 4), (8, 4, 1), (48, 3, 8)])
def test_the_global_batch_gives_the_accumulation(wanted: int, processes: int, steps: int) -> None:
    config = launch.with_accumulation(TrainConfig(batch_size=2, global_batch_size=wanted), processes)
    assert config.gradient_accumulation_steps == steps
    assert launch.with_accumulation(config, processes) == config


@pytest.mark.parametrize(("wanted", "processes"), [(7, 1), (1, 1), (12, 4), (4, 3)])
def test_a_global_batch_that_cannot_be_is_refused(wanted: int, processes: int) -> None:
    with pytest.raises(InputError, match=rf"--global_batch_size {wanted} is no multiple of {2 * processes} = "):
        launch.with_accumulation(TrainConfig(batch_size=2, global_batch_size=wanted), processes)
