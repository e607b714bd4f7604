"""JSON schemas of what no package here can check, of the fields in use.

Written from public sources, both under the Apache licence; a field that is not
here is refused, so add it from there when a file of launch/ needs it.
"""

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT, "uniqueItems": True}
_LABEL: Schema = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
  return {
    "type": "object",
    "additionalProperties": False,
    "required": list(required),
    "properties": properties,
  }


# kubernetes-sigs/jobset: api/jobset/v1alpha2/jobset_types.go, of which the CRD
# is made, at 0336a8fd; and what pkg/webhooks/jobset_webhook.go refuses, names
# and reasons. Jobs are checked by the schema of Kubernetes.
_RULE = _object(
  required=("name", "action"),
  name={
    "type": "string",
    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
    "maxLength": 128,
  },
  action={
    "enum": [
      *("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"),
      *("RestartJob", "RestartJobAndIgnoreMaxRestarts"),
    ]
  },
  onJobFailureReasons={
    **_TEXTS,
    "items": {
      "enum": [
        *("BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes"),
        *("MaxFailedIndexesExceeded", "PodFailurePolicy"),
      ]
    },
  },
  onJobFailureMessagePatterns=_TEXTS,
  targetReplicatedJobs=_TEXTS,
)
JOBSET = _object(
  required=("apiVersion", "kind", "metadata", "spec"),
  apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
  kind={"const": "JobSet"},
  metadata={
    "type": "object",
    "required": ["name"],
    "properties": {"name": _LABEL},
  },
  spec=_object(
    required=("replicatedJobs",),  # of no use without
    suspend={"type": "boolean"},
    ttlSecondsAfterFinished={"type": "integer", "minimum": 0},
    failurePolicy=_object(
      maxRestarts={"type": "integer"},
      restartStrategy={
        "enum": ["Recreate", "BlockingRecreate", "InPlaceRestart"]
      },
      rules={"type": "array", "items": _RULE},
    ),
    replicatedJobs={
      "type": "array",
      "minItems": 1,
      "items": _object(
        required=("name", "template"),
        name=_LABEL,
        groupName=_LABEL,
        replicas={"type": "integer"},
        template=_object(metadata={"type": "object"}, spec={"type": "object"}),
      ),
    },
  ),
)

# SkyPilot 0.14.1, sky/utils/schemas.py: the schemas of a task, its resources
# and its storage. Theirs lets unknown fields of job_recovery pass, for plugins
# of a server, and any case of a mode.
_EXIT_CODE: Schema = {"type": "integer", "minimum": 0, "maximum": 255}
_STORAGE = _object(
  name=_TEXT,
  source=_TEXT,
  store=_TEXT,
  persistent={"type": "boolean"},
  mode={"enum": ["MOUNT", "COPY", "MOUNT_CACHED"]},
)
SKYPILOT = _object(
  name=_TEXT,
  workdir=_TEXT,
  num_nodes={"type": "integer"},
  resources=_object(
    infra=_TEXT,
    accelerators=_TEXT,
    use_spot={"type": "boolean"},
    job_recovery=_object(
      strategy=_TEXT,
      max_restarts_on_errors={"type": "integer", "minimum": 0},
      recover_on_exit_codes={
        "type": "array",
        "items": _EXIT_CODE,
        "uniqueItems": True,
      },
    ),
  ),
  envs={
    "type": "object",
    "additionalProperties": False,
    "patternProperties": {
      "^[a-zA-Z_][a-zA-Z0-9_]*$": {"type": ["string", "null"]}
    },
  },
  file_mounts={
    "type": "object",
    "additionalProperties": {"anyOf": [_TEXT, _STORAGE]},
  },
  setup=_TEXT,
  run=_TEXT,
)
