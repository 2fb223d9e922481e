"""Names of the Kubernetes kinds that Veilpod reads and writes, as values. No I/O, no schemas: those are in `crds/`."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Where a kind lives in the Kubernetes API."""

    group: str  # "" is the core group
    version: str
    plural: str
    name: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """The `apiVersion` of a manifest of this kind."""
        return f"{self.group}/{self.version}" if self.group else self.version


def _own(plural: str, name: str, *, namespaced: bool = True) -> Kind:
    return Kind(group="veilpod.dev", version="v1alpha1", plural=plural, name=name, namespaced=namespaced)


COMPUTE_TASKS = _own("computetasks", "ComputeTask")
TASK_ASSIGNMENTS = _own("taskassignments", "TaskAssignment")
STATE_CHANNELS = _own("statechannels", "StateChannel")
ONION_RELAYS = _own("onionrelays", "OnionRelay")
DATASETS = _own("datasets", "Dataset")
SANDBOX_CLASSES = _own("sandboxclasses", "SandboxClass", namespaced=False)
OWN_KINDS = {kind.plural: kind for kind in (COMPUTE_TASKS, TASK_ASSIGNMENTS, STATE_CHANNELS, ONION_RELAYS, DATASETS, SANDBOX_CLASSES)}

PODS = Kind(group="", version="v1", plural="pods", name="Pod")
SERVICES = Kind(group="", version="v1", plural="services", name="Service")
NAMESPACES = Kind(group="", version="v1", plural="namespaces", name="Namespace", namespaced=False)
CONFIG_MAPS = Kind(group="", version="v1", plural="configmaps", name="ConfigMap")
DEPLOYMENTS = Kind(group="apps", version="v1", plural="deployments", name="Deployment")
STATEFUL_SETS = Kind(group="apps", version="v1", plural="statefulsets", name="StatefulSet")
ENDPOINT_SLICES = Kind(group="discovery.k8s.io", version="v1", plural="endpointslices", name="EndpointSlice")
NETWORK_POLICIES = Kind(group="networking.k8s.io", version="v1", plural="networkpolicies", name="NetworkPolicy")
POD_DISRUPTION_BUDGETS = Kind(group="policy", version="v1", plural="poddisruptionbudgets", name="PodDisruptionBudget")
EVENTS = Kind(group="events.k8s.io", version="v1", plural="events", name="Event")
ADMISSION_POLICIES = Kind(
    group="admissionregistration.k8s.io",
    version="v1",
    plural="validatingadmissionpolicies",
    name="ValidatingAdmissionPolicy",
    namespaced=False,
)
ADMISSION_BINDINGS = Kind(
    group="admissionregistration.k8s.io",
    version="v1",
    plural="validatingadmissionpolicybindings",
    name="ValidatingAdmissionPolicyBinding",
    namespaced=False,
)
RUNTIME_CLASSES = Kind(group="node.k8s.io", version="v1", plural="runtimeclasses", name="RuntimeClass", namespaced=False)
