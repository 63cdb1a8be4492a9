"""Learning: corpus, teachers, discriminator, losses and the loops that make E2GAN bases and concepts."""
