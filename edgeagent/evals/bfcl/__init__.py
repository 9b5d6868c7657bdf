"""The Berkeley function-calling leaderboard's single-turn categories, scored by its own rules."""
