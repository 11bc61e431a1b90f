"""Students: small draft models distilled from a target, which share its embedding and vocabulary."""

from .distil import Distilled, DistilOptions, distil
from .prompts import training_passages, training_prompts
from .student import Student, new_student, open_student, save_student
from .texts import write_texts

__all__ = [
    "DistilOptions",
    "Distilled",
    "Student",
    "distil",
    "new_student",
    "open_student",
    "save_student",
    "training_passages",
    "training_prompts",
    "write_texts",
]
