"""What the observer does about an incident once it is on disk: tells people, and acts where it was asked to."""
