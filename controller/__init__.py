"""What a deployment needs: the decision loop, its policy, and the backends."""
