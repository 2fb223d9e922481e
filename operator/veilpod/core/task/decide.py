"""The front door: three pure functions from what was observed to what to do next. State is computed, never stored.

    paper step                       requester (`requester`)      computing server (`server`, `teardown`)      channel (`channels`)
    1  request                       RequestTask
    2  scheduling                    AssignServers, AnnounceTask
    3  channels                                                   CreateChannels                               OpenChannel, JoinChannel
    4  sandbox, keys                                              BeginIncarnation, CreatePod, ConfigureAgent,
                                                                  CountersignStatement, SignSandboxKey
                                     PublishKey
    5-8  data, computing, result                                  HandDescriptors
    10 destruction                                                RequestFinals, PersistFinalStates, Release,
                                                                  Zeroise, DeletePod, RecordEvidence,
                                                                  ReleasePodFinalizer, RecordDestroyed
    11 settlement                    Refund (after failure)       ReportDestroyed, CompleteTask                CloseChannel, or Challenge,
                                                                                                               Respond, Finalize

The order that may never break is spelled in `teardown` and proved against adversaries in tests/unit/core/task/test_order.py.
"""

from veilpod.core.task.channels import decide_channel
from veilpod.core.task.requester import decide_task
from veilpod.core.task.server import decide_assignment

__all__ = ["decide_assignment", "decide_channel", "decide_task"]
