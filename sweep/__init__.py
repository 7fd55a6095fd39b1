"""Many trials: plan, resources, Ray Tune, tracking, leaderboard."""
