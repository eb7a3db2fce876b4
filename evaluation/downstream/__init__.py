"""What synthetic lesions are worth: small networks trained with and without them, tested on real patients."""
