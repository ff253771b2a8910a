// An order and its event in one commit:
//   java -cp postgresql.jar Outbox.java [jdbc:postgresql://127.0.0.1:5432/?user=proteus]
//
// Needs: the PostgreSQL JDBC driver (Debian: libpostgresql-jdbc-java)

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.util.UUID;

public class Outbox {
    public static void main(String[] arguments) throws SQLException {
        String url = arguments.length > 0
            ? arguments[0]
            : "jdbc:postgresql://127.0.0.1:5432/?user=proteus";
        try (Connection connection = DriverManager.getConnection(url)) {
            connection.createStatement().execute(
                "CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, customer TEXT, cents BIGINT)");
            connection.setAutoCommit(false);
            System.out.println("placed " + placeOrder(connection, "ann", 1250));
            try {
                placeOrder(connection, "bob", -1);
            } catch (IllegalArgumentException error) {
                System.out.println("not placed, and not published: " + error.getMessage());
            }
        }
    }

    static String placeOrder(Connection connection, String customer, long cents)
            throws SQLException {
        String order = UUID.randomUUID().toString();
        String event = String.format(
            "{\"order\":\"%s\",\"customer\":\"%s\",\"cents\":%d}", order, customer, cents);
        // The row and the event are one commit: both are there, or neither is.
        try (PreparedStatement row =
                 connection.prepareStatement("INSERT INTO orders VALUES (?, ?, ?)");
             PreparedStatement publish =
                 connection.prepareStatement("CALL kafka.produce('orders', ?, ?)")) {
            row.setString(1, order);
            row.setString(2, customer);
            row.setLong(3, cents);
            row.executeUpdate();
            publish.setString(1, order);
            publish.setString(2, event);
            publish.execute();
            if (cents < 0) {
                throw new IllegalArgumentException("an order costs something");
            }
            connection.commit();
        } catch (SQLException | RuntimeException error) {
            connection.rollback();
            throw error;
        }
        return order;
    }
}
