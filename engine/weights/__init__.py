"""Weight files: what is known of them, how a local one is recognised, and how one that a user asks for is fetched."""
