"""The contract between the two stages: windows, manifests and the feature cache."""
