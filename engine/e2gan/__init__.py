"""The E2GAN network: model, concepts, files, tiling."""
