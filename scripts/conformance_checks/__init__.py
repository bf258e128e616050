"""What a server of the Open Inference Protocol V2 must do, as checks that know nothing but its address."""
