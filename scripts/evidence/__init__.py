"""What the statistics are worth: corrupted pictures, detection, recalibration, and the page that reports them."""
