"""The paths that existing studio front ends call. Their shapes are given: docs/studio-contract.md."""
