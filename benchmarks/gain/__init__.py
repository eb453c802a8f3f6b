"""What does it gain?"""
