"""Configuration: YAML files → a validated `Config` → plain values. `load` is the door."""

from relay.config.faults import Fault, InvalidConfig, Notice, Place
from relay.config.load import Loaded, load
from relay.config.models import Config

__all__ = ["Config", "Fault", "InvalidConfig", "Loaded", "Notice", "Place", "load"]
