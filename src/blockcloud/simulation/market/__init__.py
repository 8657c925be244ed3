"""A seeded market around the production auction: who comes, what the best possible was, what came of it, and how much
those gain who lie."""
