"""The paths that existing studio front ends call. Their shapes are fixed: docs/studio-contract.md."""
