"""Sources of videos, one file each, and what turns them into clips: loading, transforms, the frozen-feature cache."""
