"""How pictures are normalised for networks trained on Kinetics-400."""

# On a scale of 0 to 1: what the published weights of R(2+1)D and S3D were trained with.
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)
