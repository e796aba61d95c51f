"""The services that every gRPC server is expected to have: health and reflection."""

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from engine.untyped import Untyped
from llmsrec.v1 import recommender_pb2 as pb

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["RecommenderService"].full_name
REFLECTION_SERVICE_NAME = "grpc.reflection.v1.ServerReflection"
"""Its stable version, whose messages are those of v1alpha, on the wire, and of other names."""


class Health(health.aio.HealthServicer):  # type: ignore[misc]
    """Says of the server and of its service alike whether they answer."""

    names = ("", SERVICE_NAME)

    async def start(self) -> None:
        for name in self.names:
            await self.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def List(  # noqa: N802
        self,
        request: health_pb2.HealthListRequest,  # noqa: ARG002
        context: Untyped,
    ) -> health_pb2.HealthListResponse:
        requests = {name: health_pb2.HealthCheckRequest(service=name) for name in self.names}
        checked = {name: await self.Check(asked, context) for name, asked in requests.items()}
        return health_pb2.HealthListResponse(statuses=checked)


def add_health(server: grpc.aio.Server) -> Health:
    servicer = Health()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return servicer


def add_reflection(server: grpc.aio.Server) -> None:
    """Let clients ask for the services' definitions, in v1 and v1alpha."""
    names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    asked = grpc.stream_stream_rpc_method_handler(
        reflection.aio.ReflectionServicer(names).ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    methods = {"ServerReflectionInfo": asked}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(REFLECTION_SERVICE_NAME, methods),)
    )
