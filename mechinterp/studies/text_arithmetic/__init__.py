"""What can a probe find in a network that reads sums as text, and does it matter?"""
