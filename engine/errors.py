"""The engine's exceptions: the gRPC status that answers each, and whose fault it is.

EngineError
├── InvalidRequest      INVALID_ARGUMENT     request      it names the field to mend
├── Overloaded          RESOURCE_EXHAUSTED   request      no permit left; try again later
├── DeadlineExpired     DEADLINE_EXCEEDED    request      the caller no longer waits
├── ShuttingDown        UNAVAILABLE          request      another replica answers
├── CallFailed          the server's         request      what a server said instead of an answer
├── RecommenderClosed   FAILED_PRECONDITION  request      it was asked after its close
├── EncodingFailed      INTERNAL             micro-batch  the encoder gave no finite vector
├── GpuFailed           UNAVAILABLE          device       a call of CUDA failed, as all will now
├── BackendUnavailable  FAILED_PRECONDITION  machine      a wheel, driver, kernel, memory lacks
├── PlanError           FAILED_PRECONDITION  machine      a plan that cannot be compiled or run here
├── BundleError         FAILED_PRECONDITION  bundle       a bundle that cannot be served
└── ConfigError         FAILED_PRECONDITION  machine      a configuration that cannot be used

The scope says who is hit. Of a request: it alone. Of a micro-batch: all that were encoded together,
so each is tried again alone. Of a device: every request from now on, so none is tried again and the
server stops. A machine or a bundle at fault is found before anything is served.
"""

from typing import ClassVar, Literal

Scope = Literal["request", "micro-batch", "device", "machine", "bundle"]


class EngineError(Exception):
    """What the engine raises on purpose; the text is meant for the caller."""

    status = "INTERNAL"
    scope: ClassVar[Scope] = "request"


class InvalidRequest(EngineError):
    """A request that cannot be answered as it stands."""

    status = "INVALID_ARGUMENT"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class Overloaded(EngineError):
    status = "RESOURCE_EXHAUSTED"


class DeadlineExpired(EngineError):
    status = "DEADLINE_EXCEEDED"


class ShuttingDown(EngineError):
    status = "UNAVAILABLE"


class CallFailed(EngineError):
    """A call to a server that brought no recommendation; `status` is its gRPC status."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


class RecommenderClosed(EngineError):
    status = "FAILED_PRECONDITION"


class EncodingFailed(EngineError):
    scope = "micro-batch"


class GpuFailed(EngineError):
    status = "UNAVAILABLE"
    scope = "device"


class BackendUnavailable(EngineError):
    status = "FAILED_PRECONDITION"
    scope = "machine"


class PlanError(EngineError):
    status = "FAILED_PRECONDITION"
    scope = "machine"


class BundleError(EngineError):
    status = "FAILED_PRECONDITION"
    scope = "bundle"


class ConfigError(EngineError):
    status = "FAILED_PRECONDITION"
    scope = "machine"
