"""Train the networks: synthetic clips, masks, losses, discriminator and one step of each, in plain torch."""
