//! What each error and line of the log is told as, and what ends it.

use super::*;

fn class_of(code: RDKafkaErrorCode, text: &str) -> Option<&'static str> {
    classify(Some(code), text).map(|(class, _, _)| class)
}

#[test]
fn each_fault_has_its_own_class() {
    use RDKafkaErrorCode as Code;
    let table = [
        (Code::Authentication, "Authentication failed: Invalid username or password", Some("authentication")),
        (Code::Authentication, "Unsupported SASL mechanism: broker's supported mechanisms: PLAIN", Some("sasl_mechanism")),
        (Code::Authentication, "Request not valid in current SASL state", Some("sasl_not_expected")),
        (Code::SSL, "certificate verify failed", Some("tls")),
        (Code::BrokerTransportFailure, "ssl alert bad certificate", Some("tls_client_certificate")),
        (Code::BrokerTransportFailure, "connecting to a PLAINTEXT broker listener?", Some("tls_to_plaintext")),
        (Code::BrokerTransportFailure, "Connection refused", Some("connection")),
        (Code::Resolve, "Failed to resolve", Some("dns")),
        (Code::UnknownTopicOrPartition, "Subscribed topic not available", Some("topic_missing")),
        (Code::TopicAuthorizationFailed, "Fetch from broker", Some("topic_not_allowed")),
        (Code::GroupAuthorizationFailed, "FindCoordinator response error", Some("group_not_allowed")),
        (Code::BadMessage, "increase receive.message.max.bytes", Some("message_too_large")),
        (Code::RebalanceInProgress, "", None),
        (Code::OperationTimedOut, "", None),
    ];
    for (code, text, class) in table {
        assert_eq!(class_of(code, text), class, "{code:?} {text}");
    }
}

#[test]
fn the_general_error_that_follows_does_not_hide_the_cause() {
    let board = Board::default();
    board.report(&KafkaError::Global(RDKafkaErrorCode::Authentication), "sasl_plaintext://x: Invalid username or password");
    board.report(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
    assert_eq!(board.trouble().unwrap().class, "authentication");
}

#[test]
fn a_plaintext_client_on_a_tls_port_learns_it_from_the_log() {
    let board = Board::default();
    board.log_line("[thrd:x]: Disconnected: receive 0 after POLLIN (after 0ms in state APIVERSION_QUERY)");
    board.report(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
    assert!(board.trouble().unwrap().detail.contains("TLS"));
    assert_eq!(board.trouble().unwrap().class, "tls_expected");
}

#[test]
fn a_line_of_the_log_that_comes_after_the_general_error_still_names_the_cause() {
    let board = Board::default();
    board.report(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
    board.log_line("[thrd:x]: Disconnected: receive 0 after POLLIN (after 0ms in state APIVERSION_QUERY)");
    assert_eq!(board.trouble().unwrap().class, "tls_expected");
}

#[test]
fn a_client_without_login_on_a_port_that_wants_one_learns_it_from_the_log() {
    let told = |board: &Board, state: &str| {
        board.log_line(&format!("[thrd:x]: Disconnected: connection closed by peer: receive 0 after POLLIN (after {state})"));
        board.report(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        board.trouble().unwrap().class
    };
    assert_eq!(told(&Board::default(), "1ms in state UP"), "sasl_expected");
    assert_eq!(told(&Board::default(), "2ms in state UP, 1 identical error(s) suppressed"), "sasl_expected");
    assert_eq!(told(&Board::default(), "90000ms in state UP"), "all_brokers_down");
    let with_login = Board { login: Some("alice via PLAIN".to_owned()), ..Board::default() };
    assert_eq!(told(&with_login, "1ms in state UP"), "all_brokers_down");
}

#[test]
fn what_only_the_log_tells_replaces_a_mere_cut_and_nothing_that_says_more() {
    let class = |first: RDKafkaErrorCode, line: &str| {
        let board = Board::default();
        board.report(&KafkaError::Global(first), "");
        board.log_line(line);
        board.report(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        board.trouble().unwrap().class
    };
    let silent = "[thrd:x]: Connection setup timed out in state SSL_HANDSHAKE (after 10000ms in state SSL_HANDSHAKE)";
    let login = "Disconnected: verify that security.protocol is correctly configured, broker might require SASL authentication";
    assert_eq!(class(RDKafkaErrorCode::BrokerTransportFailure, silent), "tls_timeout");
    assert_eq!(class(RDKafkaErrorCode::BrokerTransportFailure, login), "sasl_expected");
    assert_eq!(class(RDKafkaErrorCode::Authentication, silent), "authentication");
}

#[test]
fn a_connection_that_is_cut_at_once_says_what_the_port_expects_and_a_later_cut_does_not() {
    let class = |text: &str| {
        let board = Board::default();
        board.report(&KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure), text);
        board.trouble().unwrap().class
    };
    assert_eq!(class("x/bootstrap: Send failed: Broken pipe (after 0ms in state UP)"), "sasl_expected");
    assert_eq!(class("x/bootstrap: Receive failed: Connection reset by peer (after 3ms in state APIVERSION_QUERY)"), "tls_expected");
    assert_eq!(class("x/1: Receive failed: Connection reset by peer (after 90000ms in state UP)"), "connection");
    assert_eq!(class("x/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)"), "connection");
}

#[test]
fn what_poll_repeats_without_text_does_not_hide_the_cause() {
    let board = Board::default();
    let error = KafkaError::Global(RDKafkaErrorCode::Authentication);
    board.report(&error, "Unsupported SASL mechanism: broker's supported mechanisms: PLAIN");
    board.report(&error, "");
    assert_eq!(board.trouble().unwrap().class, "sasl_mechanism");
}

#[test]
fn a_right_that_is_given_back_ends_its_trouble_and_no_other() {
    let board = Board::default();
    board.report(&KafkaError::Global(RDKafkaErrorCode::TopicAuthorizationFailed), "Fetch from broker");
    board.committed();
    assert!(board.trouble().is_some());
    board.received();
    assert!(board.trouble().is_none());
}

#[test]
fn a_connection_ends_a_connection_fault_but_not_a_missing_topic() {
    let board = Board::default();
    board.report(&KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure), "Connection refused");
    board.connected();
    assert_eq!(board.trouble(), None);
    board.report(&KafkaError::Global(RDKafkaErrorCode::UnknownTopicOrPartition), "Subscribed topic not available");
    board.connected();
    assert_eq!(board.trouble().unwrap().class, "topic_missing");
    board.working();
    assert_eq!(board.trouble(), None);
}
