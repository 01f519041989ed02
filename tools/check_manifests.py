"""Fails where a manifest of contrib/kubernetes has a key or a value that its kind does not know.

Kubernetes' own kinds are checked against its schemas; the kinds of operators against the models that
their projects publish, which a manifest must pass through unchanged. Nothing is run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from kubeflow.training import ApiClient, KubeflowOrgV1PyTorchJob
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob
from kubernetes_validate import ValidationError, validate

FOLDER = Path(__file__).parent.parent / "contrib" / "kubernetes"
KUBERNETES = "1.33"
MODELS = {"JobSet": JobsetV1alpha2JobSet, "TrainJob": TrainerV1alpha1TrainJob}


def complaints_about(manifest: dict[str, Any]) -> Iterator[str]:
    """What is wrong with one document, as sentences."""
    kind = manifest.get("kind", "")
    try:
        if kind in MODELS:
            kept = MODELS[kind].from_dict(manifest).to_dict()
            yield from _lost(manifest, kept, kind)
        elif kind == "PyTorchJob":
            yield from _lost(manifest, _through_the_operator(manifest), kind)
        else:
            validate(manifest, KUBERNETES, strict=True)
    except ValidationError as error:
        yield f"{kind}: {error.message}"
    except (TypeError, ValueError) as error:
        yield f"{kind}: {error}"
    if kind in MODELS or kind == "PyTorchJob":
        for pod in _pods(manifest):
            yield from complaints_about(pod)


def _through_the_operator(manifest: dict[str, Any]) -> Any:
    client = ApiClient()
    answer = SimpleNamespace(data=json.dumps(manifest))
    return client.sanitize_for_serialization(client.deserialize(answer, KubeflowOrgV1PyTorchJob))


def _lost(given: Any, kept: Any, where: str) -> Iterator[str]:
    """Each key or value that is not the same after the model has read it."""
    if isinstance(given, Mapping) and isinstance(kept, Mapping):
        for key, value in given.items():
            if key not in kept:
                yield f"{where}.{key} is unknown"
            else:
                yield from _lost(value, kept[key], f"{where}.{key}")
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(one, other, f"{where}[{number}]")
    elif given != kept and str(given) != str(kept):
        yield f"{where}: {given!r} is read as {kept!r}"


def _pods(node: Any) -> Iterator[dict[str, Any]]:
    """The pods that a manifest makes: every whole template, not a patch of one."""
    if isinstance(node, list):
        for one in node:
            yield from _pods(one)
    elif isinstance(node, dict):
        spec = node.get("spec")
        if isinstance(spec, dict) and all("image" in c for c in spec.get("containers", [{}])):
            yield {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "of-a-template"},
                "spec": spec,
            }
        for value in node.values():
            yield from _pods(value)


def main() -> int:
    """Checks every manifest; the exit code says whether one is wrong."""
    paths = sorted(FOLDER.glob("*.yaml"))
    wrong = [
        f"{path.name}: {complaint}"
        for path in paths
        for manifest in yaml.safe_load_all(path.read_text("utf-8"))
        for complaint in complaints_about(manifest)
    ]
    print("\n".join(wrong) or f"{len(paths)} manifests are valid (Kubernetes {KUBERNETES})")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
