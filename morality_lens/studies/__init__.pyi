from .analysis import analyze_study as analyze_study, write_study_report as write_study_report
from .plan import PROFILES as PROFILES, Plan as Plan
from .rules import Verdict as Verdict
from .running import estimate as estimate, study as study
from .settings import Material as Material, Settings as Settings
