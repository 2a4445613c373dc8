"""Which of LLMKube's objects are ours: these are compiled, and get our word in their status.

Rule:    in files all are, since somebody handed them in. In a cluster those with the annotation
         ``fleet-epp.dev/claim: "true"``, or all with ``--claim``. ``"false"`` keeps one out anywhere. Others
         are read where a claimed object names them, and left alone.
"""

from epp.compiler.documents import Document
from epp.compiler.options import Options

CLAIM = "fleet-epp.dev/claim"


def is_claimed(document: Document, options: Options) -> bool:
    """Whether it is ours to compile; in a cluster, its status ours to write."""
    said = document.annotations.get(CLAIM, "").strip().lower()
    return said == "true" or (said != "false" and (options.claim or not options.is_live))
