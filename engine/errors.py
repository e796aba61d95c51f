"""The engine's exceptions, each with the gRPC status that answers it.

EngineError
├── InvalidRequest     INVALID_ARGUMENT     the request names the field to mend
├── Overloaded         RESOURCE_EXHAUSTED   no permit left; try again later
├── DeadlineExpired    DEADLINE_EXCEEDED    the caller no longer waits
├── ShuttingDown       UNAVAILABLE          another replica answers
├── EncodingFailed     INTERNAL             the encoder gave no finite vector
├── GpuFailed          UNAVAILABLE          a call of CUDA failed, as all will now; the server stops
├── BundleError        FAILED_PRECONDITION  a bundle that cannot be served
├── PlanError          FAILED_PRECONDITION  an encoder that cannot be compiled or run on this GPU
├── ConfigError        FAILED_PRECONDITION  a configuration that cannot be used
└── CallFailed         what the server said a call that brought no recommendation
"""


class EngineError(Exception):
    """What the engine raises on purpose; the text is meant for the caller."""

    status = "INTERNAL"


class InvalidRequest(EngineError):
    """A request that cannot be answered as it stands."""

    status = "INVALID_ARGUMENT"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class Overloaded(EngineError):
    status = "RESOURCE_EXHAUSTED"


class DeadlineExpired(EngineError):
    status = "DEADLINE_EXCEEDED"


class ShuttingDown(EngineError):
    status = "UNAVAILABLE"


class EncodingFailed(EngineError):
    status = "INTERNAL"


class GpuFailed(EngineError):
    status = "UNAVAILABLE"


class BundleError(EngineError):
    status = "FAILED_PRECONDITION"


class PlanError(EngineError):
    status = "FAILED_PRECONDITION"


class ConfigError(EngineError):
    status = "FAILED_PRECONDITION"


class CallFailed(EngineError):
    """A call to a server that brought no recommendation; `status` is its gRPC status."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status
