from .loading import load_model as load_model, record_of as record_of
