"""A simulated GPU with a virtual clock: hours of measuring take milliseconds, and the true cost of every step is known.

Its results carry the verdict SIMULATED and enter neither paper tables nor gates.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rmeeto_bench.measure.devices.telemetry import HW_THERMAL, POWER_CAP
from rmeeto_bench.measure.verdict import Evidence
from rmeeto_bench.profiles import GpuProfile

if TYPE_CHECKING:
    import torch  # seconds to import, which a simulated session does without

CHUNK = 256  # blocks whose noise is drawn at once
IDLE_C, WARM_SECONDS = 35.0, 15.0  # an idle GPU's temperature, and the time constant of its warming
BUSY_POWER = 0.9  # of the profile's power, drawn by an uncapped GPU at work
FOREIGN_PID = 4242


@dataclass(frozen=True)
class Scenario:
    """How a simulated device misbehaves; the default one is quiet and unlimited. Relative effects are shares: 0.01 is 1 %.

    The fields from `mig` on are facts for `SimDevice.evidence`.
    """

    drift: float = 0.0  # slow-down of the whole device, growing linearly over `drift_seconds` and then constant
    drift_seconds: float = 120.0  # time over which the drift grows
    ar_sd: float = 0.001  # stationary standard deviation of slow device noise
    ar_rho: float = 0.9  # correlation of slow device noise from block to block
    idiosyncratic_sd: float = 0.001  # standard deviation of independent noise of each block
    outlier_share: float = 0.0  # share of the blocks that are outliers
    outlier_size: float = 0.05  # slow-down of an outlier
    process_sd: float = 0.0  # standard deviation between sessions, of each arm by itself
    throttle_share: float = 0.0  # share of the blocks that begin an episode of throttling
    throttle_blocks: int = 1  # length of an episode in blocks
    throttle_depth: float = 0.12  # slow-down of the blocks of an episode
    throttle_detected: float = 1.0  # share of the throttled blocks that telemetry sees as such
    throttle_arms: tuple[str, ...] = ()  # arms whose blocks can begin an episode; empty: all
    contended_share: float = 0.0  # share of the blocks during which another process runs; telemetry always sees it
    contended_depth: float = 0.3  # slow-down of these blocks
    launch_floor: float = 0.0  # seconds that the host needs per step, which no step can beat
    power_cap_w: float | None = None  # lowers the clock; None: no cap
    thermometer: bool = True  # False: the driver tells nothing
    temperature_c: float = 65.0  # of the device once it is warm
    warm_seconds: float = WARM_SECONDS  # time constant of warming up
    heat: tuple[tuple[str, float], ...] = ()  # arms, and how much slower each is on the warm device than on the cold one
    memory_growth: int = 0  # bytes by which the allocator grows in each block
    host_stall: float = 0.0  # wall time beyond device time, as a share of it
    telemetry_cost: float = 0.0  # slow-down of blocks that are observed
    mig: bool = False  # the device is a MIG slice
    slow_path: bool = False  # the fast path that was asked for does not run
    tokens_mismatch: bool = False  # the model's tokens differ from the schedule
    identity_failed: bool = False  # the timed program differs from the evaluated one
    environment_changed: bool = False  # the environment changes between sessions
    out_of_memory: tuple[str, ...] = ()  # arms whose steps raise torch's out-of-memory error


@dataclass(frozen=True)
class SimStep:
    """A step of known true cost. Calling it advances the virtual clock of its device."""

    name: str  # of the arm
    seconds: float  # true time of a step on the device, without a power cap or launch floor
    device: SimDevice  # the device whose clock it advances

    def __call__(self) -> None:
        """One step outside a block, without noise."""
        self.device.pass_time(self.device.cost(self))


class SimTelemetry:
    """Telemetry of the simulated driver for the last block."""

    def __init__(self, device: SimDevice) -> None:
        self._device = device
        self._start = 0.0

    def before_block(self) -> None:
        """Note the virtual time."""
        self._start = self._device.clock()
        self._device.observed = True

    def after_block(self) -> dict[str, Any]:
        """Readings like NVML's, consistent with what slowed the block down."""
        self._device.observed = False
        return self._device.seen(self._device.clock() - self._start)

    def close(self) -> None:
        """Nothing to release."""


class SimDevice:
    """One simulated GPU of a known kind. The same seed, session, scenario and calls give the same times."""

    kind = "sim"

    def __init__(self, profile: GpuProfile, *, seed: int, session: int = 0, scenario: Scenario | None = None) -> None:
        self.profile = profile
        self.id = f"sim:{profile.name}"
        self.name = f"{profile.display} (simulated)"
        self.scenario = scenario or Scenario()
        self.observed = False
        self._now = 0.0
        self._random = np.random.default_rng([seed, session, zlib.crc32(profile.name.encode())])
        self._process_seed = (seed, session)
        self._process: dict[str, float] = {}
        self._hotter = dict(self.scenario.heat)
        self._noise: list[float] = []
        self._draws: list[tuple[float, float, float]] = []
        self._index = CHUNK
        self._slow_noise = float(self._random.normal(0, self.scenario.ar_sd))
        self._episode = 0
        self._throttled_ns = self._growth = self._reasons = 0
        self._contended = False
        wanted = BUSY_POWER * profile.power_w
        cap = self.scenario.power_cap_w
        self._capped = cap is not None and cap < wanted
        self._power_w = min(wanted, cap) if cap is not None else wanted
        self._clock_share = (self._power_w / wanted) ** (1 / 3)  # dynamic power goes with the cube of the clock

    @property
    def torch_device(self) -> torch.device:
        """Tensors of a simulated run live on the CPU."""
        import torch

        return torch.device("cpu")

    def details(self) -> dict[str, Any]:
        """As a real GPU's, from its profile."""
        return {
            "simulated": True,
            "memory_gib": self.profile.memory_gib[1],
            "compute_capability": self.profile.compute_capability,
            "multiprocessors": self.profile.multiprocessors,
            "mig": self.scenario.mig,
        }

    def clock(self) -> float:
        """Virtual seconds since the device was made."""
        return self._now

    def telemetry(self) -> SimTelemetry:
        """Its simulated driver."""
        return SimTelemetry(self)

    def evidence(self) -> Evidence:
        """The evidence that the other parts of a run would find in this scenario."""
        scenario = self.scenario
        return Evidence(
            simulated=True,
            out_of_memory=bool(scenario.out_of_memory),
            tokens_mismatch=scenario.tokens_mismatch,
            identity_failed=scenario.identity_failed,
            slow_path=scenario.slow_path,
            environment_changed=scenario.environment_changed,
            mig=scenario.mig,
        )

    def step(self, name: str, seconds: float) -> SimStep:
        """A step whose true cost on this device is `seconds`, or the launch floor if that is more."""
        return SimStep(name, seconds, self)

    def pass_time(self, seconds: float) -> None:
        """Let virtual time pass."""
        self._now += seconds

    def cost(self, step: SimStep) -> float:
        """Seconds of one step without noise. Raises torch's out-of-memory error where the scenario says so."""
        if step.name in self.scenario.out_of_memory:
            import torch

            raise torch.OutOfMemoryError(f"simulated: {step.name} does not fit")
        return max(step.seconds / self._clock_share, self.scenario.launch_floor)

    def time_block(self, step: Callable[[], Any], steps: int) -> tuple[float, float]:
        """Virtual seconds of `steps` steps under the scenario's noise. Any callable may wrap steps of this device."""
        name = ""
        if isinstance(step, SimStep):
            name, nominal = step.name, steps * self.cost(step)
        else:
            start = self._now
            for _ in range(steps):
                step()
            nominal, self._now = self._now - start, start
        seconds = nominal * self._factor(name)
        wall = seconds * (1 + self.scenario.host_stall)
        self._throttled_ns = round(1e9 * seconds) if self._reasons & HW_THERMAL else 0
        self._growth += self.scenario.memory_growth
        self._now += wall
        return seconds, wall

    def seen(self, seconds: float) -> dict[str, Any]:
        """Telemetry of the last block or blocks, over `seconds`."""
        if not self.scenario.thermometer:
            return {}
        heat = self._heat()
        slow = 1 + self._drift() + (self.scenario.throttle_depth if self._reasons & HW_THERMAL else 0)
        mhz = round(self.profile.boost_mhz * self._clock_share / slow)
        energy = self._power_w * seconds
        growth, self._growth = self._growth, 0
        return {
            "sm_mhz_mean": mhz,
            "sm_mhz_min": mhz,
            "temperature_c": round(IDLE_C + (self.scenario.temperature_c - IDLE_C) * heat, 1),
            "power_w": self._power_w,
            "energy_j": energy,
            "energy_integrated_j": energy,
            "reasons": self._reasons,
            "violation_power_ns": round(1e9 * seconds) if self._capped else 0,
            "violation_thermal_ns": self._throttled_ns,
            "foreign_pids": [FOREIGN_PID] if self._contended else [],
            "reserved_delta_bytes": growth,
        }

    def _heat(self) -> float:
        """How warm the device is: 0 when idle, 1 after a long time of work."""
        return 1 - float(np.exp(-self._now / self.scenario.warm_seconds))

    def _drift(self) -> float:
        return self.scenario.drift * min(1.0, self._now / self.scenario.drift_seconds)

    def _refill(self) -> None:
        """Noise of the next blocks, drawn at once."""
        scenario, draw = self.scenario, self._random
        innovation = np.sqrt(1 - scenario.ar_rho**2) * draw.normal(0, scenario.ar_sd, CHUNK)
        slow = np.empty(CHUNK)
        for i in range(CHUNK):
            self._slow_noise = slow[i] = float(innovation[i]) + scenario.ar_rho * self._slow_noise
        outliers = np.log1p(scenario.outlier_size) * (draw.random(CHUNK) < scenario.outlier_share)
        self._noise = np.exp(slow + draw.normal(0, scenario.idiosyncratic_sd, CHUNK) + outliers).tolist()
        self._draws = [(a, b, c) for a, b, c in draw.random((CHUNK, 3)).tolist()]
        self._index = 0

    def _process_effect(self, name: str) -> float:
        """The arm's own factor in this session. It depends on seed, session and name, not on earlier measurements."""
        if name not in self._process:
            generator = np.random.default_rng([*self._process_seed, zlib.crc32(name.encode()), 1])
            self._process[name] = float(np.exp(generator.normal(0, self.scenario.process_sd)))
        return self._process[name]

    def _factor(self, name: str) -> float:
        """The slow-down of the next block of an arm; notes what the driver would see of it."""
        if self._index == CHUNK:
            self._refill()
        scenario, noise = self.scenario, self._noise[self._index]
        throttle, detect, contend = self._draws[self._index]
        self._index += 1
        factor = noise * (1 + self._drift()) * (1 + self._hotter.get(name, 0.0) * self._heat())
        if scenario.process_sd:
            factor *= self._process_effect(name)
        self._reasons = POWER_CAP if self._capped else 0
        if self._episode == 0 and throttle < scenario.throttle_share and name in (scenario.throttle_arms or (name,)):
            self._episode = scenario.throttle_blocks
        if self._episode > 0:
            self._episode -= 1
            factor *= 1 + scenario.throttle_depth
            if detect < scenario.throttle_detected:
                self._reasons |= HW_THERMAL
        self._contended = contend < scenario.contended_share
        if self._contended:
            factor *= 1 + scenario.contended_depth
        return factor * (1 + scenario.telemetry_cost) if self.observed else factor
