"""The network: a base model with its adapters, backends that run it, the gate, folds, the prefix cache."""
