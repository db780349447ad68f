-- The peers' books: what a double-entry transfer with an idempotency key takes in PostgreSQL, in one call.
CREATE TABLE account(id int PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0)) WITH (fillfactor = 50);
CREATE TABLE transfer(
    id uuid PRIMARY KEY, debit int NOT NULL, credit int NOT NULL, amount bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE chained(
    seq bigint PRIMARY KEY, id uuid NOT NULL UNIQUE, debit int NOT NULL, credit int NOT NULL,
    amount bigint NOT NULL, leaf bytea NOT NULL
);
CREATE TABLE head(lone int PRIMARY KEY, seq bigint NOT NULL, leaf bytea NOT NULL) WITH (fillfactor = 10);
INSERT INTO head VALUES (1, 0, '\x00');

-- Both accounts are changed in the order of ids, so that no two calls wait for each other.
-- 'cleared', 'repeat' or 'conflict'; an account that lacks the money ends in an error of its check.
CREATE FUNCTION pay(key uuid, payer int, payee int, minor bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE known transfer;
BEGIN
    INSERT INTO transfer(id, debit, credit, amount) VALUES (key, payer, payee, minor) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        SELECT * INTO known FROM transfer WHERE id = key;
        IF (known.debit, known.credit, known.amount) = (payer, payee, minor) THEN RETURN 'repeat'; END IF;
        RETURN 'conflict';
    END IF;
    IF payer < payee THEN
        UPDATE account SET balance = balance - minor WHERE id = payer;
        UPDATE account SET balance = balance + minor WHERE id = payee;
    ELSE
        UPDATE account SET balance = balance + minor WHERE id = payee;
        UPDATE account SET balance = balance - minor WHERE id = payer;
    END IF;
    RETURN 'cleared';
END $$;

-- The same, each transfer chained to the one before: the head's row is locked last and for as short as can be.
CREATE FUNCTION pay_chained(key uuid, payer int, payee int, minor bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE last head; next_leaf bytea;
BEGIN
    IF EXISTS (SELECT FROM chained WHERE id = key) THEN RETURN 'repeat'; END IF;
    IF payer < payee THEN
        UPDATE account SET balance = balance - minor WHERE id = payer;
        UPDATE account SET balance = balance + minor WHERE id = payee;
    ELSE
        UPDATE account SET balance = balance + minor WHERE id = payee;
        UPDATE account SET balance = balance - minor WHERE id = payer;
    END IF;
    SELECT * INTO last FROM head WHERE lone = 1 FOR UPDATE;
    next_leaf := sha256(last.leaf || convert_to(concat_ws('|', key, payer, payee, minor), 'UTF8'));
    INSERT INTO chained VALUES (last.seq + 1, key, payer, payee, minor, next_leaf);
    UPDATE head SET seq = last.seq + 1, leaf = next_leaf WHERE lone = 1;
    RETURN 'cleared';
END $$;
