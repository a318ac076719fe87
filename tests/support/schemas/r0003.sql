BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE audit (
	number INTEGER NOT NULL, 
	at_s DOUBLE NOT NULL, 
	uid INTEGER NOT NULL, 
	verb TEXT NOT NULL, 
	selector TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	rows_count BIGINT NOT NULL, 
	PRIMARY KEY (number)
);
INSERT INTO "audit" VALUES(1,1700000000.0,0,'queue hold','--recipient ben@example.edu','ticket 1',1);
CREATE TABLE body_chunk (
	message_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	crc32 BIGINT NOT NULL, 
	data BLOB NOT NULL, 
	PRIMARY KEY (message_id, number), 
	FOREIGN KEY(message_id) REFERENCES message (id) ON DELETE CASCADE
);
INSERT INTO "body_chunk" VALUES('06h0eg0rj6a7hfxa',0,3457064923,X'4D61696C66726F6E742D49643A2030366830656730726A366137686678610D0A5375626A6563743A206F6C6465720D0A582D546F6B656E3A206F6C6465720D0A0D0A7772697474656E20627920616E206F6C646572206D61696C66726F6E740D0A');
CREATE TABLE bucket (
	number INTEGER NOT NULL, 
	node TEXT NOT NULL, 
	PRIMARY KEY (number)
);
CREATE TABLE counter (
	name TEXT NOT NULL, 
	value BIGINT NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE handoff (
	message_id TEXT NOT NULL, 
	holder TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	home TEXT NOT NULL, 
	mailbox_key TEXT NOT NULL, 
	address TEXT NOT NULL, 
	node_user TEXT NOT NULL, 
	notify TEXT, 
	orcpt TEXT, 
	reverse_path TEXT, 
	arrived_s DOUBLE NOT NULL, 
	state TEXT NOT NULL, 
	changed_s DOUBLE NOT NULL, 
	attempts INTEGER NOT NULL, 
	next_attempt_s DOUBLE NOT NULL, 
	last_reply TEXT NOT NULL, 
	node TEXT, 
	lease_owner TEXT, 
	lease_until_s DOUBLE, 
	PRIMARY KEY (message_id, holder, number)
);
CREATE TABLE message (
	id TEXT NOT NULL, 
	state TEXT NOT NULL, 
	reverse_path TEXT, 
	sender_domain TEXT NOT NULL, 
	sender_local TEXT NOT NULL, 
	arrived_s DOUBLE NOT NULL, 
	expires_s DOUBLE NOT NULL, 
	changed_s DOUBLE NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	body_type TEXT NOT NULL, 
	smtputf8 BOOLEAN NOT NULL, 
	ret TEXT, 
	envid TEXT, 
	client_ip TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "message" VALUES('06h0eg0rj6a7hfxa','queued','postmaster@example.edu','example.edu','postmaster',1700000000.0,4000000000.0,1700000000.0,97,'7BIT',0,'HDRS','e1','192.0.2.1','');
CREATE TABLE node_state (
	node TEXT NOT NULL, 
	protocol TEXT NOT NULL, 
	state TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	since_s DOUBLE NOT NULL, 
	PRIMARY KEY (node, protocol)
);
CREATE TABLE pin (
	mailbox_key TEXT NOT NULL, 
	node TEXT, 
	source TEXT NOT NULL, 
	made_s DOUBLE NOT NULL, 
	PRIMARY KEY (mailbox_key)
);
CREATE TABLE recipient (
	message_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	address TEXT NOT NULL, 
	domain TEXT NOT NULL, 
	local_key TEXT NOT NULL, 
	mailbox_key TEXT NOT NULL, 
	bucket INTEGER NOT NULL, 
	node_user TEXT NOT NULL, 
	notify TEXT, 
	orcpt TEXT, 
	state TEXT NOT NULL, 
	arrived_s DOUBLE NOT NULL, 
	next_attempt_s DOUBLE NOT NULL, 
	attempts INTEGER NOT NULL, 
	tried_s DOUBLE NOT NULL, 
	blame TEXT NOT NULL, 
	last_reply TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	node TEXT, 
	lease_owner TEXT, 
	lease_until_s DOUBLE, via TEXT DEFAULT '' NOT NULL, list_owner TEXT, warned BOOLEAN DEFAULT 0 NOT NULL, 
	PRIMARY KEY (message_id, number), 
	FOREIGN KEY(message_id) REFERENCES message (id) ON DELETE CASCADE
);
INSERT INTO "recipient" VALUES('06h0eg0rj6a7hfxa',0,'ana@example.edu','example.edu','ana','ana@example.edu',3905,'ana','FAILURE','rfc822;ana@example.edu','waiting',1700000000.0,0.0,1,0.0,'','451 4.4.1 store1: refused','',NULL,NULL,NULL,'',NULL,0);
INSERT INTO "recipient" VALUES('06h0eg0rj6a7hfxa',1,'ben@example.edu','example.edu','ben','ben@example.edu',3964,'ben',NULL,NULL,'held',1700000000.0,0.0,1,0.0,'','','held by uid 0: ticket 1',NULL,NULL,NULL,'',NULL,0);
CREATE INDEX audit_time ON audit (at_s);
CREATE INDEX handoff_changed ON handoff (state, changed_s);
CREATE INDEX handoff_place ON handoff (state, holder, home, next_attempt_s);
CREATE INDEX message_changed ON message (state, changed_s);
CREATE INDEX message_expiry ON message (state, expires_s, arrived_s, size_bytes);
CREATE INDEX message_sender ON message (sender_domain, sender_local, id);
CREATE INDEX recipient_address ON recipient (domain, local_key, message_id, number);
CREATE INDEX recipient_due ON recipient (state, bucket, next_attempt_s, arrived_s, mailbox_key);
CREATE INDEX recipient_shape ON recipient (state, domain, arrived_s);
CREATE INDEX recipient_state ON recipient (state, message_id, number);
CREATE INDEX recipient_unknown ON recipient (node, next_attempt_s) WHERE state = 'unknown';
COMMIT;
