from .verdicts import planted_verdicts as planted_verdicts
