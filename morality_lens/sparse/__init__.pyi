from .autoencoder import SparseAutoencoder as SparseAutoencoder
from .cards import FeatureCard as FeatureCard, feature_cards as feature_cards
from .checking import check_sae as check_sae
from .formats import load_sae as load_sae
from .reading import Choice as Choice, feature_effects as feature_effects, features as features
from .shares import (
    describe_shares as describe_shares,
    direction_shares as direction_shares,
    split_direction as split_direction,
)
