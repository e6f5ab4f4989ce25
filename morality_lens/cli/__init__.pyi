from .run_config import RunConfig as RunConfig, load_study as load_study
