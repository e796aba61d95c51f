"""What tests ask of a bundle that holds a plan."""

from engine.bundle.manifest import Manifest, Plan, TensorRT


def plan_of(manifest: Manifest) -> Plan:
    assert isinstance(manifest.encoder, TensorRT)
    return manifest.encoder.plan
