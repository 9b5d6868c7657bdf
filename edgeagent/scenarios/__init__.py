"""What an agent can be asked to do: policy, tools, backend and seeded data."""
