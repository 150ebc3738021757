"""The proof, from the store alone, that nothing that was accepted is missing; or what is."""
