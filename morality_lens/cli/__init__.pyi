from .run_config import RunConfig as RunConfig, load_study as load_study
from .study_config import StudyConfig as StudyConfig, load_study_config as load_study_config
