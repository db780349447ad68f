"""SM cryptography, all of it: `sm2` (signatures), `sm3` (hash and MAC), `sm4_gcm` (sealing), `known_answers`
(that the machine's libraries compute them, asked at every start), `rates` (how fast they do).

Every algorithm comes from a maintained library and has one way in: SM2 from the system's libcrypto
(`sm.libcrypto`), SM3 from hashlib, SM4-GCM from cryptography, whose wheels carry an OpenSSL of their own: the
system's may lack that mode. Leaves out where keys lie (`access.key_files`) and what is signed
(`core.journal`).
"""
