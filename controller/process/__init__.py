"""What an episode is: actions, features, state and cost, as arrays, without input or output."""
