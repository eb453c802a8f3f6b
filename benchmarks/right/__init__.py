"""Is the number right?"""
