"""The settings of nbgrader, for `course.py`, and for `nbgrader` called in the teacher's folder."""

import sys
from pathlib import Path

from nbconvert.preprocessors import CSSHTMLHeaderPreprocessor
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    GetGrades,
    LimitOutput,
    SaveAutoGrades,
)

folder = Path(__file__).resolve().parent
sys.path.insert(0, str(folder))
from grading import ConfinedExecute, HideHiddenTests  # noqa: E402

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "lfvi"
c.CourseDirectory.root = str(folder)

# Limits for a submission: seconds, megabytes, kilobytes.
c.ConfinedExecute.timeout = 60
c.ConfinedExecute.notebook_timeout = 180
c.ConfinedExecute.memory = 2000
c.ConfinedExecute.longest_output = 500
c.ConfinedExecute.closed = [str(folder)]

c.OverwriteCells.add_missing_cells = True  # a test that a student deleted
c.Autograde.autograde_preprocessors = [
    ConfinedExecute,
    LimitOutput,
    SaveAutoGrades,
    AssignLatePenalties,
    CheckCellMetadata,
]
c.GenerateFeedback.preprocessors = [GetGrades, HideHiddenTests, CSSHTMLHeaderPreprocessor]
