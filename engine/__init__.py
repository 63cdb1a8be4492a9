"""Inference: torch and safetensors only, importable without ComfyUI."""
