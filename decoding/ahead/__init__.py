"""Writing ahead: a draft model that goes on while the target reads.

`ask` starts a window of draft tokens, `answer` waits for it. What happens between the two runs at the
same time: in a second process (`ProcessAhead`: one core, or one GPU, of its own), in a thread with a
CUDA stream of its own (`ThreadAhead`), or not at all (`InlineAhead`, for tests and for timing).
Nobody polls: both sides sleep in a read of a pipe or queue.
"""

from .ahead import Ahead
from .inline import InlineAhead
from .process import ProcessAhead
from .thread import ThreadAhead
from .window import EMPTY, Window
from .writer import Writer

__all__ = ["EMPTY", "Ahead", "InlineAhead", "ProcessAhead", "ThreadAhead", "Window", "Writer"]
