"""The settings of nbgrader: for `course.py`, and for what `nbgrader` itself does in the teacher's folder."""

import sys
from pathlib import Path

from nbconvert.preprocessors import CSSHTMLHeaderPreprocessor
from nbgrader.converters.base import NbGraderException
from nbgrader.preprocessors import GetGrades

folder = Path(__file__).resolve().parent
sys.path.insert(0, str(folder))
from grading import Feedback  # noqa: E402


def refuse(**_):
    raise NbGraderException("nbgrader would run hand-ins unconfined. Grade with: course.py grade FOLDER")


c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "lfvi"
c.CourseDirectory.root = str(folder)
c.Autograde.pre_convert_hook = refuse
c.GenerateFeedback.preprocessors = [GetGrades, Feedback, CSSHTMLHeaderPreprocessor]
